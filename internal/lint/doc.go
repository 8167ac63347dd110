// Package lint has no code besides its tests, which check the style of the whole module: imports, sizes and shapes of
// declarations, the language of comments, documents and messages, labels, and the parts of documents that repeat the
// code.
//
// The flag -update rewrites the generated parts of documents.
package lint
