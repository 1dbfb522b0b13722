package descriptor

import "fmt"

// CheckRoom returns why a descriptor of c's clients and CAA records that stays below
// limit bytes may not have room for one introduction point, whichever it is; nil if
// it has. 0 stands for MaxSize.
func (c *Contents) CheckRoom(limit int) error {
	if err := c.checkCAA(); err != nil {
		return fmt.Errorf("%s: %w", kwCAA, err)
	}
	distinct := sortedClients(c.Clients)
	switch {
	case (&Contents{Clients: distinct, CAA: c.CAA}).fits(1, limit):
		return nil
	case (&Contents{CAA: c.CAA}).fits(1, limit):
		return fmt.Errorf("clients: %d of them leave a descriptor no room for an introduction point", len(distinct))
	}
	return fmt.Errorf("%s: the records leave a descriptor no room for an introduction point", kwCAA)
}

// fits reports whether n introduction points, of the widest, are few enough.
func (c *Contents) fits(n, limit int) bool {
	w := widest()
	second := saltSize + w.head + n*w.point + macSize
	for _, r := range c.CAA {
		second += len(kwCAA + " " + r.String() + "\n")
	}
	first := w.auth + len(kwCAACritical+"\n") + (authEntries(len(c.Clients))-authMultiple)*w.client
	first += len(kwEncrypted+"\n") + objectLength(labelMessage, second)
	first += (padMultiple-first%padMultiple)%padMultiple + saltSize + macSize
	return checkSize(wrapperRoom+objectLength(labelMessage, first), limit) == nil
}
