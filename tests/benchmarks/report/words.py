"""What the page says around its figures; the names in braces are figures of the run."""

HEAD = """# Benchmarks

Every figure and every plot here comes from one run of `make bench`, whose raw data is in [{raw}]({raw}).
The page is made of that data alone, goals that were missed included; a test holds it to that. What each row measures,
and how noise is kept out of it, says [tests/benchmarks/README.md](../tests/benchmarks/README.md).

The figures are worth something beside each other only: “the bare server” is a `grpc.server` without anything behind it
that answers a ready `Decision` on the same core, on the same kind of pool, in turn with what is measured. Ratios are
medians of rounds, each over the rounds of the other right before and after it.
"""

TOO_FEW = """**This run was quick ({rounds} rounds): it shows that the bench works, and its figures say nothing.**
"""

LADDERS = """\
Calls are due at random instants, whatever became of those before, and latency counts from the instant at which a call
was due. “Sent late” is the generator's own share of that.
"""

HALF = "{offered} calls/s in an open loop, while {uploaded} records/s were uploaded.\n"

PEER = """\
Cerbos {version}, a policy sidecar in Go, on the same core. Its policy compares what was used, and what a call would
add, with a limit. The caller brings all three along; our sidecar knows them.
"""

ENGINE = "Of which, each by itself: {parts}.\n"

POPULATIONS = """\
A sidecar that keeps {kept} customers. One call of {cold_every} asks about the next customer in a walk through
all there are, who is never in the cache: fetched from the control plane, and another one forgotten. The others ask
about {hot} customers that stay.
"""

BOOKS = """\
PostgreSQL, the control plane and the plain statements share one core, so the ratio is that of all
CPU time and waiting; commits are durable.
"""

FLEET = """\
{sidecars} sidecars, each in its own process with its own connection, stream, outbox and port, on one core; the control
plane has the other. A catalog is published that moves everybody to another version of their plan, {publishes} times.
A sidecar and the client that asks it use {cpu:.1f} ms of CPU per publish, and here they take turns; in life each has
its own machine, and takes as long as the one alone. The bare processes are told of a publish on a bare stream and
answer a bare call: what the core needs for a hundred of them where nothing is done.
"""
