# One of the services in examples/nodekit_hello, as an image:
#
#   docker build -f examples/docker/hello.Dockerfile --build-arg SERVICE=count \
#       -t nodekit-hello/count:1 examples/nodekit_hello

ARG BASE=python:3.12-slim
FROM ${BASE}

ARG SERVICE
COPY --chown=65534:65534 ${SERVICE}.py /service.py

# Inside a container, 127.0.0.1 is the container's own: nobody could call it there.
ENV HOST=0.0.0.0 PORT=3000
EXPOSE 3000
USER 65534:65534
ENTRYPOINT ["python3", "-I", "/service.py"]
