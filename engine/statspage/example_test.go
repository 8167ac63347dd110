package statspage_test

import (
	"log"
	"net/http"
	"os"

	"pagecache/engine"
	"pagecache/engine/statspage"
)

// A database shows its store on the server that it has anyway.
func Example() {
	dir, err := os.MkdirTemp("", "store")
	if err != nil {
		log.Fatal(err)
	}
	pc, err := engine.Open(dir, engine.Bytes{}, &engine.Options{Temporary: true})
	if err != nil {
		log.Fatal(err)
	}
	page := statspage.New(pc.Stats, &statspage.Options{Title: "my database"})
	mux := http.NewServeMux()
	mux.Handle("/debug/pagecache", page)

	page.Close() // no more calls of pc.Stats
	if err := pc.Close(); err != nil {
		log.Fatal(err)
	}
	// Output:
}
