# JupyterLab with everything for reading; Binder uses this file as it is.
#   docker build -t yolop . && docker run --rm -p 8888:8888 yolop
# For computing as well: docker build --build-arg LOCK=requirements.lock -t yolop .
FROM python:3.11-slim-bookworm
ARG LOCK=requirements-read.lock
ARG NB_USER=reader
ARG NB_UID=1000
ENV HOME=/home/${NB_USER} USER=${NB_USER} NB_UID=${NB_UID} PYTHONDONTWRITEBYTECODE=1
RUN useradd --create-home --uid ${NB_UID} ${NB_USER}
WORKDIR ${HOME}/yolop
COPY ${LOCK} requirements.txt
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements.txt && rm requirements.txt
COPY --chown=${NB_UID} . .
ENV PYTHONPATH=${HOME}/yolop
USER ${NB_USER}
EXPOSE 8888
CMD ["python", "-m", "jupyterlab", "--ip=0.0.0.0", "--no-browser"]
