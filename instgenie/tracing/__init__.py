"""What happened when: spans, events and counters of the engine, for people who look for lost time. Off by default."""

from instgenie.tracing.current import current_tracer, open_trace
from instgenie.tracing.tracer import NO_TRACE, Attribute, Span, Tracer

__all__ = ["NO_TRACE", "Attribute", "Span", "Tracer", "current_tracer", "open_trace"]
