package daemon

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"

	"onionbalancer/internal/cluster"
	"onionbalancer/internal/config"
	"onionbalancer/internal/etcd"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/strictmodes"
)

// clusterFiles are the files of [cluster], opened.
type clusterFiles struct {
	key         *cluster.Key
	authorities *x509.CertPool   // nil: those of the system
	certificate *tls.Certificate // nil: none
}

// openClusterFiles opens the files of [cluster], but for the password, which is read when it
// is needed.
func openClusterFiles(c config.Cluster) (f clusterFiles, err error) {
	if f.key, err = cluster.ReadKey(c.Key); err != nil {
		return f, err
	}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return f, fmt.Errorf("reading cluster.ca: %w", err)
		}
		f.authorities = x509.NewCertPool()
		if !f.authorities.AppendCertsFromPEM(pem) {
			return f, fmt.Errorf("reading cluster.ca: %q has no certificate in PEM", c.CA)
		}
	}
	if c.Cert != "" {
		if f.certificate, err = readCertificate(c.Cert, c.CertKey); err != nil {
			return f, fmt.Errorf("reading cluster.cert and cluster.cert_key: %w", err)
		}
	}
	return f, nil
}

// readCertificate reads a certificate and its key, which only this user may be able to read.
func readCertificate(cert, key string) (*tls.Certificate, error) {
	certPEM, err := os.ReadFile(cert)
	if err != nil {
		return nil, err
	}
	keyPEM, err := readSecretFile(key)
	if err != nil {
		return nil, err
	}
	defer clear(keyPEM)
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	return &pair, err
}

// maxSecret is far above the size of a key or a password, in bytes.
const maxSecret = 64 << 10

// readSecretFile reads a file that should be this user's alone, or a credential.
func readSecretFile(ref string) ([]byte, error) {
	path, err := openfile.Resolve(ref)
	if err != nil {
		return nil, err
	}
	f, info, err := openfile.Secret(path)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", path, err)
	}
	defer f.Close()
	if err := strictmodes.Current().Secret(path, f); err != nil {
		return nil, err
	}
	if info.Size() > maxSecret {
		return nil, fmt.Errorf("%q is larger than %d bytes", path, maxSecret)
	}
	content := make([]byte, info.Size())
	n, err := f.ReadAt(content, 0)
	if n == len(content) {
		err = nil
	}
	return content, err
}

// clusterPassword returns the password of cluster.user: the first line of its file.
func clusterPassword(ref string) (string, error) {
	content, err := readSecretFile(ref)
	defer clear(content)
	line, _, _ := bytes.Cut(content, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if err == nil && len(line) == 0 {
		err = errors.New("its first line is empty")
	}
	if err != nil {
		return "", fmt.Errorf("reading cluster.password_file: %w", err)
	}
	return string(line), nil
}

// tls returns the configuration of https endpoints. A certificate that was replaced since is
// used from the next connection on.
func (f clusterFiles) tls(c config.Cluster) *tls.Config {
	out := &tls.Config{RootCAs: f.authorities, MinVersion: tls.VersionTLS12}
	if f.certificate != nil {
		out.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if now, err := readCertificate(c.Cert, c.CertKey); err == nil {
				return now, nil
			}
			return f.certificate, nil
		}
	}
	return out
}

// etcd returns how to reach the etcd of a cluster. dial connects to "unix" and "tcp"
// addresses, onion addresses among the latter.
func (f clusterFiles) etcd(c config.Cluster, dial func(ctx context.Context, network, address string) (net.Conn, error)) etcd.Config {
	e := etcd.Config{Endpoints: c.Endpoints, TLS: f.tls(c), User: c.User, Dial: dial, Timeout: c.Lease / 3} // as often as it is renewed
	if c.PasswordFile != "" {
		e.Password = func() (string, error) { return clusterPassword(c.PasswordFile) }
	}
	return e
}
