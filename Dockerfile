# The server as an image: a virtual environment that the first stage makes, and nothing that builds or installs.
#
#   docker build -t presence-server .
#   docker run --rm --read-only -p 127.0.0.1:8080:8080 presence-server
#
# BASE is any image with Python 3.11 or newer and its venv module; deploy/container/build.sh makes one where no registry is.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
# "embedded" adds a Valkey, for `serve --workers auto` without redis.url; its socket needs a folder: --tmpfs /tmp.
ARG EXTRAS=""
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY presence_server presence_server
RUN python3 -m venv /opt/presence-server \
    && /opt/presence-server/bin/python -m pip install --no-cache-dir --disable-pip-version-check -c constraints.txt ".${EXTRAS:+[$EXTRAS]}" \
    && /opt/presence-server/bin/python -m pip uninstall --yes --quiet --disable-pip-version-check pip

FROM ${BASE}
LABEL org.opencontainers.image.title="presence-server" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/presence-server /opt/presence-server
# In a container every address is the container's own. The internal port stays on loopback until api.key is set.
ENV PATH=/opt/presence-server/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PRESENCE_SERVER__HOST=0.0.0.0
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
WORKDIR /
EXPOSE 8080 8081
# Drains for server.drain_ms, 30 s by default: give `docker stop` that time and more (--time 40).
STOPSIGNAL SIGTERM
# The internal port has no TLS, whatever the client port has. /healthz says that the loop runs, not that Redis answers: a
# node without Redis serves its own clients and must not be restarted.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 CMD ["python", "-c", "\
import os, urllib.request as r; \
r.urlopen('http://127.0.0.1:' + os.environ.get('PRESENCE_SERVER__API_PORT', '8081') + '/healthz', timeout=2)"]
ENTRYPOINT ["presence-server"]
CMD ["serve"]
