# Build with: docker build -t syncd .
# Run with read-only models and root, a volume for the state, and a token file that uid 10001 can read
# (docs/install.md explains the steps, docs/deploy/ has files for Compose and Kubernetes):
#   docker run --read-only --tmpfs /tmp -v /srv/comfyui/models:/models:ro -v syncd:/var/lib/syncd \
#       -v ./api_token:/run/secrets/api_token:ro syncd

# Any other base must provide Python 3.11 or newer as "python", pip, and certificate authorities.
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
RUN python -m venv --without-pip /opt/syncd \
    && pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements-build.lock \
    && pip --python /opt/syncd install --no-cache-dir --require-hashes --only-binary :all: \
        -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY syncd syncd
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /opt/syncd install --no-cache-dir --no-index --no-deps dist/*.whl

FROM ${BASE}
COPY --from=build /opt/syncd /opt/syncd
# syncd uses the system's certificate authorities: fail the build if they are missing.
RUN test -s /etc/ssl/certs/ca-certificates.crt \
    && groupadd --gid 10001 syncd \
    && useradd --no-log-init --uid 10001 --gid 10001 --no-create-home \
        --home-dir /var/lib/syncd --shell /usr/sbin/nologin syncd \
    && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/syncd
# The image has no /models, so a forgotten mount is a missing root and not an empty one.
ENV PATH=/opt/syncd/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SYNCD_MODELS_DIR=/models \
    SYNCD_STATE_DIR=/var/lib/syncd
USER 10001
VOLUME /var/lib/syncd
STOPSIGNAL SIGTERM
# May fail until the first scan of a large tree has started.
HEALTHCHECK --interval=60s --timeout=15s --start-period=2m --retries=3 CMD ["syncd", "health"]
ENTRYPOINT ["syncd"]
