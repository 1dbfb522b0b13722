package pin

const (
	// maxSize of a PIN in bytes, beyond what any token takes.
	maxSize = 256

	// maxDescriptor is beyond what a service manager hands over.
	maxDescriptor = 1 << 16
)
