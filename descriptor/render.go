package descriptor

import (
	"encoding/base64"
	"strconv"
)

// appendValue writes raw in base64 with padding.
func appendValue(b, raw []byte) []byte { return base64.StdEncoding.AppendEncode(b, raw) }

// appendBareValue writes raw in base64 without padding.
func appendBareValue(b, raw []byte) []byte { return base64.RawStdEncoding.AppendEncode(b, raw) }

// appendObject writes raw as an object, without a newline after its END line.
func appendObject(b []byte, label string, raw []byte) []byte {
	b = append(append(append(b, objectBegin...), label...), "-----\n"...)
	b = appendLines(b, raw)
	return append(append(append(b, objectEnd...), label...), objectDashes...)
}

// objectLength is how many bytes appendObject writes for n bytes.
func objectLength(label string, n int) int {
	return len(objectBegin) + len(objectEnd) + 2*len(label) + len("-----\n") + len(objectDashes) + linesLength(n)
}

// appendContents writes the second layer up to its introduction points, in the
// order in which tor does.
func appendContents(b []byte, c *Contents) []byte {
	b = append(b, kwCreate2...)
	formats := c.Create2Formats
	if len(formats) == 0 {
		formats = []int{ntorFormat}
	}
	for _, f := range formats {
		b = strconv.AppendInt(append(b, ' '), int64(f), 10)
	}
	b = append(b, '\n')
	if len(c.IntroAuthRequired) > 0 {
		b = append(b, kwIntroAuth...)
		for _, word := range c.IntroAuthRequired {
			b = append(append(b, ' '), word...)
		}
		b = append(b, '\n')
	}
	if c.SingleOnion {
		b = append(b, kwSingleOnion+"\n"...)
	}
	for _, r := range c.CAA {
		b = append(append(append(b, kwCAA+" "...), r.String()...), '\n')
	}
	if f := c.FlowControl; f != nil {
		b = append(append(append(b, kwFlowControl+" "...), f.Versions...), ' ')
		b = append(strconv.AppendUint(b, uint64(f.SendmeInc), 10), '\n')
	}
	for _, p := range c.PowParams {
		b = append(append(append(b, kwPowParams+" "...), p.String()...), '\n')
	}
	return b
}

// appendPoint writes an introduction point with its certificates.
func appendPoint(b []byte, p *IntroductionPoint, auth, enc Certificate) []byte {
	b = append(b, kwIntroPoint+" "...)
	b = append(appendValue(b, appendLinkSpecifiers(nil, p.LinkSpecifiers)), '\n')
	b = append(b, kwOnionKey+" "+ntorWord+" "...)
	b = append(appendValue(b, p.OnionKey[:]), '\n')
	b = append(b, kwAuthKey+"\n"...)
	b = append(appendObject(b, labelCert, []byte(auth.raw)), '\n')
	b = append(b, kwEncKey+" "+ntorWord+" "...)
	b = append(appendValue(b, p.EncKey[:]), '\n')
	b = append(b, kwEncCert+"\n"...)
	return append(appendObject(b, labelCert, []byte(enc.raw)), '\n')
}

// appendAuth writes the first layer up to its encrypted line, caa-critical aside.
func appendAuth(b []byte, ephemeral [32]byte, clients []AuthClient) []byte {
	b = append(b, kwAuthType+" "+authTypeWord+"\n"...)
	b = append(b, kwAuthEphemeral+" "...)
	b = append(appendValue(b, ephemeral[:]), '\n')
	for i := range clients {
		c := &clients[i]
		b = append(b, kwAuthClient+" "...)
		b = append(appendBareValue(b, c.ID[:]), ' ')
		b = append(appendBareValue(b, c.IV[:]), ' ')
		b = append(appendBareValue(b, c.EncryptedCookie[:]), '\n')
	}
	return b
}
