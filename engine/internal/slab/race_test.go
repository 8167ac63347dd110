//go:build race

package slab

const raced = true
