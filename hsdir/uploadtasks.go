package hsdir

// taskList is a doubly linked list: tasks are in one list at a time, and leave it
// from wherever they are.
type taskList struct{ first, last *task }

func (l *taskList) pushBack(t *task)  { l.insert(t, l.last, nil) }
func (l *taskList) pushFront(t *task) { l.insert(t, nil, l.first) }

func (l *taskList) insert(t, prev, next *task) {
	t.list, t.prev, t.next = l, prev, next
	l.link(prev, t)
	l.link(t, next)
}

func (l *taskList) remove(t *task) {
	l.link(t.prev, t.next)
	t.list, t.prev, t.next = nil, nil, nil
}

// link makes b follow a; nil stands for the ends.
func (l *taskList) link(a, b *task) {
	if a == nil {
		l.first = b
	} else {
		a.next = b
	}
	if b == nil {
		l.last = a
	} else {
		b.prev = a
	}
}

// retryHeap is a container/heap of the tasks that wait to be retried.
type retryHeap []*task

func (h retryHeap) Len() int           { return len(h) }
func (h retryHeap) Less(i, j int) bool { return h[i].retryAt < h[j].retryAt }

func (h retryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = int32(i+1), int32(j+1)
}

func (h *retryHeap) Push(x any) {
	t := x.(*task)
	t.place = int32(len(*h) + 1)
	*h = append(*h, t)
}

func (h *retryHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last], t.place, *h = nil, 0, (*h)[:last]
	return t
}
