// Package ring sets up one io_uring and exchanges requests and completions with the kernel through it. It knows neither
// files nor retries: those belong to the Writer and the Reader of package iouring. The ring is our own, on the system
// call layer of github.com/iceber/iouring-go; the design follows io_uring(7) and Jens Axboe's liburing.
package ring
