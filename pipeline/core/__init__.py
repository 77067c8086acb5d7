"""What everything else stands on: errors, params.yaml, atomic files, processes, digests of code."""
