//! The OpenAPI document: what the routes say, and what holds for all of them.

use crate::{
    output::{Chunk, Skip},
    problem::{MEDIA_TYPE, ProblemDocument},
    router,
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ContentBuilder, Info, License, OpenApi, OpenApiBuilder, Ref, RefOr, Required, ResponseBuilder,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem},
        schema::{Components, ObjectBuilder, Type},
        tag::TagBuilder,
    },
};

const DESCRIPTION: &str = "Runs untrusted code in sandboxes. Errors are problem documents (RFC 9457) with a stable \
    `code`. Times are RFC 3339, durations `_ms` or `_s`, sizes `_mib` or `_bytes`. Every answer carries \
    `X-Request-Id`. Where a path says `{id}`, a sandbox's name does as well.";

/// The OpenAPI document of everything this server answers.
pub fn openapi() -> OpenApi {
    router::documented().into_openapi()
}

/// What the document begins with, before the routes add themselves.
pub(crate) fn preamble() -> OpenApi {
    let mut info = Info::new("Isopod", env!("CARGO_PKG_VERSION"));
    info.description = Some(DESCRIPTION.to_owned());
    info.license = Some(License::new(env!("CARGO_PKG_LICENSE")));
    let tags = [
        ("sandboxes", "Making, finding, changing and ending sandboxes"),
        ("execs", "Running commands, and following them"),
        ("files", "Files inside a sandbox"),
        ("events", "What happened, and figures"),
        ("server", "The server itself"),
    ]
    .map(|(name, text)| TagBuilder::new().name(name).description(Some(text)).build());
    let mut components = Components::new();
    // No operation's body names these: problems are added below, events are told in words.
    let mut schemas = vec![
        (ProblemDocument::name().into_owned(), ProblemDocument::schema()),
        (Chunk::name().into_owned(), Chunk::schema()),
        (Skip::name().into_owned(), Skip::schema()),
    ];
    ProblemDocument::schemas(&mut schemas);
    Skip::schemas(&mut schemas);
    components.schemas.extend(schemas);
    OpenApiBuilder::new().info(info).tags(Some(tags)).components(Some(components)).build()
}

/// Adds what every operation has: the parameters of its path and the problems it may answer.
pub(crate) fn complete(document: &mut OpenApi) {
    let paths = std::mem::take(&mut document.paths.paths);
    for (path, mut item) in paths {
        // The router's mark for "the rest of the path" is not OpenAPI's.
        let path = path.replace("{*", "{");
        for operation in operations(&mut item) {
            complete_operation(&path, operation);
        }
        document.paths.paths.insert(path, item);
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.head, &mut item.patch]
        .into_iter()
        .filter_map(Option::as_mut)
}

fn complete_operation(path: &str, operation: &mut Operation) {
    let parameters = operation.parameters.get_or_insert_default();
    let names = path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    for (index, name) in names.enumerate() {
        let known = parameters.iter().any(|parameter| match parameter {
            RefOr::T(Parameter { name: known, .. }) => known == name,
            RefOr::Ref(_) => false,
        });
        if !known {
            parameters.insert(index, path_parameter(name).into());
        }
    }
    let query = parameters.iter().any(
        |parameter| matches!(parameter, RefOr::T(parameter) if parameter.parameter_in != ParameterIn::Path),
    );
    if parameters.is_empty() {
        operation.parameters = None;
    }
    let body = operation.request_body.is_some();
    for (status, applies, text) in [
        ("400", body, "The request cannot be read (`malformed_request`)"),
        ("404", path.contains("{id}"), "There is no such thing, as far as this caller may know"),
        ("410", path.contains("{id}"), "The sandbox has ended; `ending` says how (`gone`)"),
        ("413", body, "The body is too large (`too_large`)"),
        ("422", body || query, "A value is wrong; `field` names it (`invalid_value`)"),
        ("default", true, "Any other problem; `code` says which"),
    ] {
        if applies {
            operation.responses.responses.entry(status.to_owned()).or_insert_with(|| problem(text));
        }
    }
}

fn path_parameter(name: &str) -> Parameter {
    let text = match name {
        "id" => "The sandbox's id, or its name",
        "eid" => "The exec's id",
        _ => "Path inside the sandbox, without the leading `/`; `/` within it is not encoded",
    };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(text))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String).build()))
        .build()
}

fn problem(text: &str) -> RefOr<utoipa::openapi::Response> {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    ResponseBuilder::new().description(text).content(MEDIA_TYPE, content).build().into()
}
