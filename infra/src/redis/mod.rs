//! Redis adapters: counters and trending, and what several processes share for a while (one-time codes, limits, positions).
