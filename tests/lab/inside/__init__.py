"""What runs inside the lab's namespaces. The standard library only: it starts in milliseconds, and on every host."""
