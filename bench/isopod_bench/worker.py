"""Workers: processes of the bench client that carry out orders and time them."""

import subprocess


class Worker:
    """One client process, as a context. `prefix` is put before its command line."""

    def __init__(self, client, arguments, group=None, prefix=()):
        argv = [*prefix, str(client), *arguments]
        self.argv = group.entering(argv) if group else argv
        self.group = group

    def __enter__(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        # What a worker starts has no terminal and says nothing on standard output: that is the worker's own.
        self.process = subprocess.Popen(self.argv, text=True, **pipes)
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def order(self, *fields):
        """Gives an order; the words of the answer."""
        self.process.stdin.write("\t".join(str(field) for field in fields) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"bench: the worker failed at: {fields}")
        return answer.split()

    def times(self, *fields):
        """Gives an order that is answered with times; nanoseconds."""
        return [int(word) for word in self.order(*fields)]
