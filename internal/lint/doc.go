// Package lint holds no code: its tests check the style of the whole module. They need nothing but the standard library.
package lint
