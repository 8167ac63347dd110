package engine

// bringIn has what a page of which nothing is resident consists of brought into the page cache.
func (s *store) bringIn(h *head) {}
