"""check.yml: what each machine is like, what is wrong, what each strategy would make of them, and what to change."""
