package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// caKeyFile is the key of an authority. No node needs it.
const caKeyFile = "ca.key"

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// openAuthority returns the authority in dir, and makes one if there is none.
func openAuthority(dir string) (authority, error) {
	certPEM, err := os.ReadFile(filepath.Join(dir, caFile))
	if errors.Is(err, fs.ErrNotExist) {
		return newAuthority(dir)
	}
	if err != nil {
		return authority{}, err
	}
	keyPEM, err := os.ReadFile(filepath.Join(dir, caKeyFile))
	if err != nil {
		return authority{}, err
	}
	certBlock, _ := pem.Decode(certPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if certBlock == nil || keyBlock == nil {
		return authority{}, fmt.Errorf("%s: no certificate or no key", dir)
	}
	var a authority
	if a.cert, err = x509.ParseCertificate(certBlock.Bytes); err != nil {
		return authority{}, err
	}
	a.key, err = x509.ParseECPrivateKey(keyBlock.Bytes)
	return a, err
}

// newAuthority makes an authority in dir.
func newAuthority(dir string) (a authority, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return a, err
	}
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return a, err
	}
	a.cert = template("pagesd authority")
	a.cert.IsCA, a.cert.BasicConstraintsValid = true, true
	a.cert.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, a.key.Public(), a.key)
	if err != nil {
		return a, err
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return a, err
	}
	return a, write(filepath.Join(dir, caKeyFile), a.key, filepath.Join(dir, caFile), der)
}

// template returns what all certificates have in common. They are valid for a year, from an hour ago on.
func template(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62)) // crypto/rand does not fail
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.AddDate(1, 0, 0),
	}
}

// write writes a key and a certificate.
func write(keyName string, key *ecdsa.PrivateKey, certName string, der []byte) error {
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	private := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret})
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return errors.Join(os.WriteFile(keyName, private, 0o600), os.WriteFile(certName, public, 0o644))
}

// issue makes the identity of a node or a client in dir.
func (a authority) issue(dir, name, role string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	cert := template(name)
	cert.DNSNames = []string{role}
	cert.KeyUsage = x509.KeyUsageDigitalSignature
	cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	if role == clientName {
		cert.ExtKeyUsage = cert.ExtKeyUsage[:1]
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, key.Public(), a.key)
	if err != nil {
		return err
	}
	if err := write(filepath.Join(dir, keyFile), key, filepath.Join(dir, certFile), der); err != nil {
		return err
	}
	trusted := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
	return os.WriteFile(filepath.Join(dir, caFile), trusted, 0o644)
}

// certs makes an authority in dir, unless there is one, and identities in subdirectories. Each name is ROLE:NAME, with
// the role node or client.
func certs(dir string, names []string) error {
	a, err := openAuthority(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		role, name, _ := strings.Cut(n, ":")
		host, ok := map[string]string{"node": nodeName, "client": clientName}[role]
		if !ok || name == "" || name != filepath.Base(name) || strings.HasPrefix(name, ".") {
			return fmt.Errorf("%q is neither node:NAME nor client:NAME", n)
		}
		if err := a.issue(filepath.Join(dir, name), name, host); err != nil {
			return err
		}
	}
	return nil
}
