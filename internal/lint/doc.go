// Package lint has no code besides its tests, which check the style of the whole module: imports, sizes and shapes of
// declarations, the language of comments, documents and messages, labels, and the parts of documents that repeat the
// code.
//
// TestLanguage lists the findings in folders that are exempt for now if it is run with -v. The flag -update rewrites
// the generated parts of documents.
package lint
