//! Which fields of a request name an account, so that every request is checked for whose things it names: generates
//! `impl NamesAccounts`.
//!
//! By convention (AIP-122, AIP-158) such a field is called `parent`, `name` or, when it names another thing than the
//! request is about, `function`; a bare account is called `account`. A field of a request that says in its comment that
//! it has the form `accounts/{account}…` and is called otherwise fails the build.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::bail;
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

use crate::validators::{camel, is_ours, items_are_checked_elsewhere, module_of, rust_path};

/// Fields that hold the resource name of something that belongs to an account, or of something that belongs to nobody.
const RESOURCES: [&str; 4] = ["name", "parent", "function", "resource"];
/// Fields that hold an account's id.
const ACCOUNTS: [&str; 1] = ["account"];

/// Rust source with one `impl NamesAccounts` for every message that a request consists of.
pub(crate) fn generate(pool: &DescriptorPool) -> anyhow::Result<String> {
    let mut messages = BTreeMap::new();
    for service in pool.services() {
        for method in service.methods().filter(|method| is_ours(&method.input())) {
            collect(method.input(), &mut messages);
        }
    }
    let mut out = String::from("// Generated from the requests of the contract.\n");
    for message in messages.values() {
        let mut body = String::new();
        for field in message.fields() {
            visit(&mut body, message, &field)?;
        }
        let unused = if body.is_empty() { "_" } else { "" };
        writeln!(
            out,
            "impl NamesAccounts for {} {{\n    fn visit<'a>(&'a self, {unused}found: &mut dyn FnMut(Named<'a>)) {{\n{body}    }}\n}}",
            rust_path(message)
        )?;
    }
    Ok(out)
}

/// The message and what it consists of.
fn collect(message: MessageDescriptor, found: &mut BTreeMap<String, MessageDescriptor>) {
    if found.insert(message.full_name().to_owned(), message.clone()).is_some() {
        return;
    }
    for field in message.fields().filter(|field| !field.is_map()) {
        if let Kind::Message(part) = field.kind()
            && is_ours(&part)
        {
            collect(part, found);
        }
    }
}

fn visit(body: &mut String, message: &MessageDescriptor, field: &FieldDescriptor) -> anyhow::Result<()> {
    let name = field.name();
    let statement = match field.kind() {
        Kind::String if RESOURCES.contains(&name) => "found(Named::Resource(value));",
        Kind::String if ACCOUNTS.contains(&name) => "found(Named::Account(value));",
        Kind::String if comment(message, field).contains("`accounts/{account}") => {
            bail!(
                "{}: call a field that names something of an account one of {RESOURCES:?}",
                field.full_name()
            )
        }
        Kind::Message(part) if is_ours(&part) && !field.is_map() => "value.visit(found);",
        _ => return Ok(()),
    };
    if field.is_list() {
        if !items_are_checked_elsewhere(field)? {
            writeln!(body, "        for value in &self.{name} {{ {statement} }}")?;
        }
    } else if let Some(oneof) = field.containing_oneof() {
        let path = format!("{}::{}::{}", module_of(message), camel(oneof.name()), camel(name));
        writeln!(body, "        if let Some({path}(value)) = &self.{} {{ {statement} }}", oneof.name())?;
    } else if matches!(field.kind(), Kind::Message(_)) {
        writeln!(body, "        if let Some(value) = &self.{name} {{ {statement} }}")?;
    } else {
        writeln!(body, "        {{ let value = &self.{name}; {statement} }}")?;
    }
    Ok(())
}

/// What the contract says before a field.
fn comment(message: &MessageDescriptor, field: &FieldDescriptor) -> String {
    let file = message.parent_file();
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let location = info.and_then(|info| info.location.iter().find(|location| location.path == field.path()));
    location.map(|location| location.leading_comments().to_owned()).unwrap_or_default()
}
