"""Who is asking: organisations, projects, keys and members, as plain facts."""
