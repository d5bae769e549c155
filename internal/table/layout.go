package table

// layout returns the widths of the columns. It reports false if they can't be made to fit.
func (t Table) layout(room int) ([]int, bool) {
	widths := make([]int, len(t.Columns))
	total := len(gap) * (len(t.Columns) - 1)
	for i, c := range t.Columns {
		widths[i] = width(c.Name)
		for _, row := range t.Rows {
			widths[i] = max(widths[i], width(row.Cells[i]))
		}
		total += widths[i]
	}
	if room == 0 {
		return widths, true
	}
	for ; total > room; total-- {
		i := t.widest(widths)
		if i < 0 {
			return nil, false
		}
		widths[i]--
	}
	return widths, true
}

// widest returns the widest column that can be narrower, or -1.
func (t Table) widest(widths []int) int {
	found := -1
	for i, c := range t.Columns {
		if c.Least > 0 && widths[i] > c.Least && (found < 0 || widths[i] > widths[found]) {
			found = i
		}
	}
	return found
}
