"""Publishing in one call, as tests write it."""

from gmi_registry.hubs import Hub
from gmi_registry.publish import EncoderLoader, Progress, Publication, PublishRequest
from gmi_registry.publish import publish as publish_request
from gmi_registry.spec import ModelRef


def publish(
    ref: ModelRef,
    hub: Hub,
    *,
    load: EncoderLoader | None = None,
    progress: Progress = lambda stage, done, total: None,
    **options,
) -> Publication:
    """``options`` are those of a PublishRequest."""
    return publish_request(PublishRequest(ref, **options), hub, load=load, progress=progress)
