"""Typed keys of what handlers find on the application and on a request.

Middlewares read the application's through `request.config_dict`, since they also serve applications inside it.
"""

from __future__ import annotations

from aiohttp import web

from instgenie_server.access.auth import Authenticator, Identity
from instgenie_server.access.rate_limit import RateLimiter
from instgenie_server.in_flight import InFlight
from instgenie_server.metrics import Metrics
from instgenie_server.record_cache.exposition import ServiceExposition
from instgenie_server.settings import Settings

SETTINGS = web.AppKey("settings", Settings)
AUTHENTICATOR = web.AppKey("authenticator", Authenticator)
RATE_LIMITER = web.AppKey("rate_limiter", RateLimiter)
METRICS = web.AppKey("metrics", Metrics)
CACHE_METRICS = web.AppKey("cache_metrics", ServiceExposition)  # absent where no cache service is used
IN_FLIGHT = web.AppKey("in_flight", InFlight)

REQUEST_ID = web.RequestKey("request_id", str)
IDENTITY = web.RequestKey("identity", Identity)  # absent on routes that are open to everybody
ERROR_CODE = web.RequestKey("error_code", str)  # of the error that was replied, for the access log
STARTED = web.RequestKey("started", web.StreamResponse)  # the response whose headers are sent
