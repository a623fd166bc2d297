"""Loading records without bubbles: the plan of a step, what it costs, and the loader."""
