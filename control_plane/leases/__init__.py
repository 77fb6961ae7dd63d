"""Sessions, leases, recalls, rates and gauges: how nothing is oversold. See README.md."""
