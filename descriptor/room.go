package descriptor

import "fmt"

// ownClients is how many clients there is room for beside those that an operator
// authorizes: the publisher may have to read its own descriptor.
const ownClients = 1

// CheckRoom returns why a descriptor of c's clients and CAA records that stays below
// limit bytes may not have room for one introduction point, whichever it is; nil if
// it has. 0 stands for MaxSize.
func (c *Contents) CheckRoom(limit int) error {
	if err := c.checkCAA(); err != nil {
		return fmt.Errorf("%s: %w", kwCAA, err)
	}
	switch n := len(sortedClients(c.Clients)); {
	case !c.fits(1, 0, limit):
		return fmt.Errorf("%s: the records leave a descriptor no room for an introduction point", kwCAA)
	case n > 0 && !c.fits(1, n+ownClients, limit):
		return fmt.Errorf("clients: %d of them leave a descriptor no room for an introduction point, at most %d do", n, c.MaxClients(limit))
	}
	return nil
}

// MaxClients returns how many clients a descriptor of c's CAA records that stays
// below limit bytes has room for beside an introduction point, whichever it is. 0
// stands for MaxSize.
func (c *Contents) MaxClients(limit int) int {
	n := 0
	for c.fits(1, n+1+ownClients, limit) {
		n++
	}
	return n
}

// fits reports whether n introduction points, of the widest, and so many clients are
// few enough.
func (c *Contents) fits(n, clients, limit int) bool {
	w := widest()
	second := saltSize + w.head + len(CAAText(c.CAA)) + len("\n") + n*w.point + macSize
	first := w.auth + len(kwCAACritical+"\n") + (authEntries(clients)-authMultiple)*w.client
	first += len(kwEncrypted+"\n") + objectLength(labelMessage, second)
	first += (padMultiple-first%padMultiple)%padMultiple + saltSize + macSize
	return checkSize(wrapperRoom+objectLength(labelMessage, first), limit) == nil
}
