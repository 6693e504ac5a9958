"""Published data sets: what they consist of, downloading, unpacking, reading their layouts."""
