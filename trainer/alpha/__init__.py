"""alpha, the weight of the matching loss: its schedules, and the bi-level problem by which it is learned."""
