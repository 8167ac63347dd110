//go:build !race

package lru

const undercounts = false
