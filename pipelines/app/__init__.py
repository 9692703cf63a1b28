"""The page of ``llmdiff app``: try an adapter, see why, browse the store, watch a run."""
