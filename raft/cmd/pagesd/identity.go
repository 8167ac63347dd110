package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// The names in a certificate say what its holder may do. A node may do what a client may, too.
const (
	nodeName   = "node.pagesd"   // may be a peer of raft
	clientName = "client.pagesd" // may send requests
)

// The files of an identity.
const (
	caFile   = "ca.pem"   // the certificates that are trusted
	certFile = "cert.pem" // of the process itself
	keyFile  = "key.pem"
)

// identity is a directory with the files above: the certificate of a process, and those that it trusts. Each handshake
// reads the files, so they can be replaced while the process runs. The empty identity means that there is no TLS.
type identity string

// load reads the files.
func (i identity) load() (own tls.Certificate, trusted *x509.CertPool, err error) {
	own, err = tls.LoadX509KeyPair(filepath.Join(string(i), certFile), filepath.Join(string(i), keyFile))
	if err != nil {
		return own, nil, fmt.Errorf("read certificate: %w", err)
	}
	pem, err := os.ReadFile(filepath.Join(string(i), caFile))
	if err != nil {
		return own, nil, fmt.Errorf("read trusted certificates: %w", err)
	}
	trusted = x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(pem) {
		return own, nil, fmt.Errorf("read trusted certificates: %s has none", filepath.Join(string(i), caFile))
	}
	return own, trusted, nil
}

// accept makes the handshake of a connection that was accepted. node says whether the other side may be a peer of raft;
// without TLS everybody may.
func (i identity) accept(ctx context.Context, conn net.Conn) (c net.Conn, node bool, err error) {
	if i == "" {
		return conn, true, nil
	}
	own, trusted, err := i.load()
	if err != nil {
		return nil, false, err
	}
	c2 := tls.Server(conn, &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{own},
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              trusted,
		SessionTicketsDisabled: true, // every connection shows its certificate
	})
	if err := c2.HandshakeContext(ctx); err != nil {
		return nil, false, err
	}
	other := c2.ConnectionState().PeerCertificates[0]
	node = other.VerifyHostname(nodeName) == nil
	if !node && other.VerifyHostname(clientName) != nil {
		return nil, false, fmt.Errorf("the certificate of %q is neither for %s nor for %s", other.Subject.CommonName,
			nodeName, clientName)
	}
	return c2, node, nil
}

// dial connects to a node, and verifies that it is one.
func (i identity) dial(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	if i == "" {
		return d.DialContext(ctx, "tcp", addr)
	}
	own, trusted, err := i.load()
	if err != nil {
		return nil, err
	}
	secure := tls.Dialer{NetDialer: &d, Config: &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{own},
		RootCAs:      trusted,
		ServerName:   nodeName,
	}}
	conn, err := secure.DialContext(ctx, "tcp", addr)
	if unknown := (x509.UnknownAuthorityError{}); errors.As(err, &unknown) {
		return nil, fmt.Errorf("%s shows a certificate that is not trusted: %w", addr, err)
	}
	return conn, err
}
