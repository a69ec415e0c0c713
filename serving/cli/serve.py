"""Commands that run a service or a part of one, and the settings of all."""

from __future__ import annotations

from typing import Annotated

import typer

from serving.cli.options import (
    ArtifactStoreOption,
    DatabaseOption,
    DataDirOption,
    FamilyOption,
    GrpcOption,
    HttpOption,
    KeysOption,
    ModelOption,
    PublicUrlOption,
    TlsCertOption,
    TlsClientCaOption,
    TlsKeyOption,
    UnsafeMediaOption,
    settings_of,
    stdout,
)

MORE = "The other settings are ZOETROPE_* variables, which `zoetrope settings` lists."


def serve(
    model: ModelOption = None,
    family: FamilyOption = None,
    ranks: Annotated[int | None, typer.Option(help="GPUs of an engine.")] = None,
    engines: Annotated[int | None, typer.Option(help="Engines, each with the whole model.")] = None,
    grpc: GrpcOption = None,
    http: HttpOption = None,
    data_dir: DataDirOption = None,
    database: DatabaseOption = None,
    artifact_store: ArtifactStoreOption = None,
    gateways: Annotated[int | None, typer.Option(help="Gateway processes; all but the first take free ports.")] = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    tls_client_ca: TlsClientCaOption = None,
    public_url: PublicUrlOption = None,
    keys: KeysOption = None,
    unsafe_media: UnsafeMediaOption = None,
    stop_when_stdin_ends: Annotated[bool, typer.Option("--stop-with-stdin", hidden=True)] = False,
) -> int:
    """Start a service. Prints one line, `ready grpc=... http=...`, once a job would be served."""
    settings = settings_of(
        model=model,
        family=family,
        ranks=ranks,
        engines=engines,
        grpc=grpc,
        http=http,
        data_dir=data_dir,
        database=database,
        artifact_store=artifact_store,
        gateways=gateways,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        public_url=public_url,
        keys=keys,
        unsafe_media=unsafe_media,
    )
    if stop_when_stdin_ends:
        from serving.stopping import stop_with_stdin

        stop_with_stdin()
    from serving.app import serve as run

    return run(settings)


def gateway(
    model: ModelOption = None,
    family: FamilyOption = None,
    grpc: GrpcOption = None,
    http: HttpOption = None,
    data_dir: DataDirOption = None,
    database: DatabaseOption = None,
    artifact_store: ArtifactStoreOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    tls_client_ca: TlsClientCaOption = None,
    public_url: PublicUrlOption = None,
    keys: KeysOption = None,
    unsafe_media: UnsafeMediaOption = None,
) -> int:
    """Start one gateway for the database and the files of a service that runs elsewhere.

    Prints one line, `ready grpc=... http=...`, once it answers.
    """
    settings = settings_of(
        model=model,
        family=family,
        grpc=grpc,
        http=http,
        data_dir=data_dir,
        database=database,
        artifact_store=artifact_store,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        public_url=public_url,
        keys=keys,
        unsafe_media=unsafe_media,
    )
    from serving.gateway.main import serve as run

    return run(settings, supervised=False)


def settings() -> None:
    """List every setting: its variable, its value here, and what it means."""
    from serving.cli.tables import settings_table

    stdout().print(settings_table(settings_of()))


def register(app: typer.Typer) -> None:
    app.command(epilog=MORE)(serve)
    app.command(epilog=MORE)(gateway)
    app.command()(settings)
