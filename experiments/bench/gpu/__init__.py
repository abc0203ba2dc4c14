"""`gpu`: all that only a GPU can show, in steps, each in a process of its own and under a time limit."""
