package btree

// SetNodeSize sets the number of bytes above which t splits a node, so that few items make a high tree.
func SetNodeSize(t *Tree, bytes int) { t.size = bytes }
