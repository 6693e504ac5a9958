"""The machine and the process: memory, threads, processes, what the processor can do, where a figure was measured."""
