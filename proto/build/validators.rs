//! Turns the contract's protovalidate annotations into `impl Validate` blocks: direct field access, no
//! reflection and no expression interpreter at run time.
//!
//! `prost-protovalidate` would do the same, but building it needs a system `protoc` (seen with 0.6.0).
//! A rule that is not known here fails the build, so that none is ever silently skipped.

use std::fmt::Write as _;

use anyhow::{Context, bail};
use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    OneofDescriptor, ReflectMessage, Value,
};

/// Rust source with one `impl Validate` for every message of the contract.
pub(crate) fn generate(pool: &DescriptorPool) -> anyhow::Result<String> {
    let extension =
        |name: &str| pool.get_extension_by_name(name).with_context(|| format!("no extension {name}"));
    let mut generator = Generator {
        field_rules: extension("buf.validate.field")?,
        oneof_rules: extension("buf.validate.oneof")?,
        message_rules: extension("buf.validate.message")?,
        out: String::from("// Generated from the annotations of the contract.\n"),
        patterns: 0,
    };
    for message in pool.all_messages().filter(is_ours) {
        if !message.is_map_entry() {
            generator.message(&message).with_context(|| format!("rules of {}", message.full_name()))?;
        }
    }
    Ok(generator.out)
}

struct Generator {
    field_rules: ExtensionDescriptor,
    oneof_rules: ExtensionDescriptor,
    message_rules: ExtensionDescriptor,
    out: String,
    patterns: usize,
}

impl Generator {
    fn message(&mut self, message: &MessageDescriptor) -> anyhow::Result<()> {
        if message.options().has_extension(&self.message_rules) {
            bail!("message rules are not supported");
        }
        let mut body = String::new();
        for field in message.fields().filter(|field| field.containing_oneof().is_none()) {
            let access = format!("self.{}", field.name());
            self.field(&mut body, &field, &access).with_context(|| format!("field {}", field.name()))?;
        }
        for oneof in message.oneofs() {
            self.oneof(&mut body, message, &oneof)?;
        }
        let unused = if body.is_empty() { "_" } else { "" };
        writeln!(
            self.out,
            "impl Validate for {} {{\n    fn check(&self, {unused}at: Path<'_>, {unused}found: &mut Violations) {{\n{body}    }}\n}}",
            rust_path(message)
        )?;
        Ok(())
    }

    fn field(&mut self, body: &mut String, field: &FieldDescriptor, access: &str) -> anyhow::Result<()> {
        let rules = self.rules(field)?;
        let name = field.name();
        writeln!(body, "        {{\n            let at = at.field({name:?});")?;
        if field.is_map() {
            self.map(body, &rules, access)?;
        } else if field.is_list() {
            self.list(body, field, &rules, access)?;
        } else if let Kind::Message(message) = field.kind() {
            if rules.required {
                writeln!(body, "            found.required_message(at, {access}.is_some());")?;
            }
            if let Some(rule) = self.value_rule(&rules, &field.kind())? {
                writeln!(body, "            if let Some(value) = &{access} {{ {rule} }}")?;
            } else if is_ours(&message) {
                writeln!(body, "            if let Some(value) = &{access} {{ value.check(at, found); }}")?;
            }
        } else if let Some(rule) = self.value_rule(&rules, &field.kind())? {
            let skip_zero = if rules.ignore_zero {
                match field.kind() {
                    Kind::String => "if !value.is_empty() ",
                    Kind::Double => "if *value != 0.0 ",
                    _ => "if *value != 0 ",
                }
            } else {
                ""
            };
            writeln!(body, "            let value = &{access};\n            {skip_zero}{{ {rule} }}")?;
        }
        writeln!(body, "            let _ = at;\n        }}")?;
        Ok(())
    }

    fn map(&mut self, body: &mut String, rules: &Rules, access: &str) -> anyhow::Result<()> {
        let Some(map) = &rules.typed else { return Ok(()) };
        for (field, value) in map.fields() {
            match (field.name(), value) {
                ("max_pairs", Value::U64(max)) => {
                    writeln!(body, "            found.max_items(at, {access}.len(), {max});")?;
                }
                ("keys", Value::Message(keys)) => {
                    let rules = Rules::read(keys)?;
                    if let Some(rule) = self.value_rule(&rules, &Kind::String)? {
                        writeln!(
                            body,
                            "            for value in {access}.keys() {{ let at = at.key(value); {rule} }}"
                        )?;
                    }
                }
                ("values", Value::Message(values)) => {
                    let rules = Rules::read(values)?;
                    if let Some(rule) = self.value_rule(&rules, &Kind::String)? {
                        writeln!(
                            body,
                            "            for (key, value) in &{access} {{ let at = at.key(key); {rule} }}"
                        )?;
                    }
                }
                (other, _) => bail!("map rule {other} is not supported"),
            }
        }
        Ok(())
    }

    fn list(
        &mut self,
        body: &mut String,
        field: &FieldDescriptor,
        rules: &Rules,
        access: &str,
    ) -> anyhow::Result<()> {
        let mut item = match field.kind() {
            Kind::Message(message) if is_ours(&message) => Some("value.check(at, found);".to_owned()),
            _ => None,
        };
        for (rule, value) in rules.typed.iter().flat_map(|typed| typed.fields()) {
            match (rule.name(), value) {
                ("min_items", Value::U64(min)) => {
                    writeln!(body, "            found.min_items(at, {access}.len(), {min});")?;
                }
                ("max_items", Value::U64(max)) => {
                    writeln!(body, "            found.max_items(at, {access}.len(), {max});")?;
                }
                ("items", Value::Message(items)) => {
                    let rules = Rules::read(items)?;
                    item = if rules.ignore_always {
                        None
                    } else {
                        self.value_rule(&rules, &field.kind())?.or(item)
                    };
                }
                (other, _) => bail!("repeated rule {other} is not supported"),
            }
        }
        if let Some(item) = item {
            writeln!(
                body,
                "            for (index, value) in {access}.iter().enumerate() {{ let at = at.index(index); {item} }}"
            )?;
        }
        Ok(())
    }

    fn oneof(
        &mut self,
        body: &mut String,
        message: &MessageDescriptor,
        oneof: &OneofDescriptor,
    ) -> anyhow::Result<()> {
        let name = oneof.name();
        let options = oneof.options();
        if options.has_extension(&self.oneof_rules) {
            let rules = options.get_extension(&self.oneof_rules);
            let required = rules
                .as_message()
                .and_then(|rules| rules.get_field_by_name("required").map(|v| v.into_owned()));
            if required == Some(Value::Bool(true)) {
                let choices: Vec<_> = oneof.fields().map(|field| field.name().to_owned()).collect();
                writeln!(
                    body,
                    "        found.required_oneof(at.field({name:?}), self.{name}.is_some(), {:?});",
                    choices.join(", ")
                )?;
            }
        }
        let enum_path = format!("{}::{}", module_of(message), camel(name));
        for field in oneof.fields() {
            let rules = self.rules(&field)?;
            let rule = match (self.value_rule(&rules, &field.kind())?, field.kind()) {
                (Some(rule), _) => rule,
                (None, Kind::Message(message)) if is_ours(&message) => "value.check(at, found);".to_owned(),
                (None, _) => continue,
            };
            writeln!(
                body,
                "        if let Some({enum_path}::{}(value)) = &self.{name} {{ let at = at.field({:?}); {rule} }}",
                camel(field.name()),
                field.name()
            )?;
        }
        Ok(())
    }

    fn rules(&self, field: &FieldDescriptor) -> anyhow::Result<Rules> {
        let options = field.options();
        if !options.has_extension(&self.field_rules) {
            return Ok(Rules::default());
        }
        Rules::read(
            options.get_extension(&self.field_rules).as_message().context("field rules are a message")?,
        )
    }

    /// A statement that checks `value` (a reference) at `at`; none when there is nothing to check.
    fn value_rule(&mut self, rules: &Rules, kind: &Kind) -> anyhow::Result<Option<String>> {
        let mut fields = String::new();
        let mut typed = Vec::new();
        if let Some(message) = &rules.typed {
            typed.extend(message.fields().map(|(field, value)| (field.name().to_owned(), value.clone())));
        }
        match kind {
            Kind::String => {
                if rules.required {
                    fields += "required: true, ";
                }
                for (name, value) in typed {
                    match (name.as_str(), value) {
                        ("min_len" | "max_len" | "max_bytes", Value::U64(limit)) => {
                            write!(fields, "{name}: Some({limit}), ")?
                        }
                        ("uuid", Value::Bool(true)) => fields += "uuid: true, ",
                        ("pattern", Value::String(pattern)) => {
                            let index = self.patterns;
                            self.patterns += 1;
                            writeln!(
                                self.out,
                                "static PATTERN_{index}: LazyLock<Regex> = LazyLock::new(|| Regex::new({pattern:?}).expect(\"a pattern of the contract\"));"
                            )?;
                            write!(fields, "pattern: Some(&PATTERN_{index}), ")?;
                        }
                        (other, _) => bail!("string rule {other} is not supported"),
                    }
                }
                Ok((!fields.is_empty()).then(|| {
                    format!("found.string(at, value, &StringRules {{ {fields}..StringRules::NONE }});")
                }))
            }
            Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64 => {
                let (mut min, mut max) = ("None".to_owned(), "None".to_owned());
                for (name, value) in typed {
                    let value = match value {
                        Value::I32(value) => i64::from(value),
                        Value::I64(value) => value,
                        Value::U32(value) => i64::from(value),
                        Value::U64(value) => i64::try_from(value)?,
                        other => bail!("{name} has the value {other:?}"),
                    };
                    match name.as_str() {
                        "gte" => min = format!("Some({value})"),
                        "lte" => max = format!("Some({value})"),
                        other => bail!("integer rule {other} is not supported"),
                    }
                }
                let none = min == "None" && max == "None";
                Ok((!none).then(|| format!("found.integer(at, *value, {min}, {max});")))
            }
            Kind::Double => {
                let (mut min, mut max) = ("f64::NEG_INFINITY".to_owned(), "f64::INFINITY".to_owned());
                for (name, value) in typed {
                    let Value::F64(value) = value else { bail!("{name} has the value {value:?}") };
                    match name.as_str() {
                        "gte" => min = format!("{value:?}"),
                        "lte" => max = format!("{value:?}"),
                        other => bail!("double rule {other} is not supported"),
                    }
                }
                Ok(rules.typed.is_some().then(|| format!("found.double(at, *value, {min}, {max});")))
            }
            Kind::Enum(descriptor) => {
                let rust =
                    format!("{}::{}", package_module(descriptor.package_name()), camel(descriptor.name()));
                match typed.as_slice() {
                    [] => Ok(None),
                    [(name, Value::Bool(true))] if name == "defined_only" => {
                        Ok(Some(format!("found.defined_enum(at, {rust}::try_from(*value).is_ok());")))
                    }
                    other => bail!("enum rules {other:?} are not supported"),
                }
            }
            Kind::Message(message) if message.full_name() == "google.protobuf.Duration" => {
                let (mut min, mut max) = ("None".to_owned(), "None".to_owned());
                for (name, value) in typed {
                    let bound = value.as_message().context("a duration")?;
                    let number =
                        |field: &str| match bound.get_field_by_name(field).map(|value| value.into_owned()) {
                            Some(Value::I64(value)) => value,
                            Some(Value::I32(value)) => i64::from(value),
                            _ => 0,
                        };
                    let bound = format!("Some(({}, {}))", number("seconds"), number("nanos"));
                    match name.as_str() {
                        "gte" => min = bound,
                        "lte" => max = bound,
                        other => bail!("duration rule {other} is not supported"),
                    }
                }
                let none = min == "None" && max == "None";
                Ok((!none).then(|| format!("found.duration(at, value, {min}, {max});")))
            }
            other if typed.is_empty() => {
                let _ = other;
                Ok(None)
            }
            other => bail!("rules for {other:?} are not supported"),
        }
    }
}

/// Whether the rules of a list leave its items to someone else.
pub(crate) fn items_are_checked_elsewhere(list: &FieldDescriptor) -> anyhow::Result<bool> {
    let extension = list.parent_file().parent_pool().get_extension_by_name("buf.validate.field");
    let extension = extension.context("no extension buf.validate.field")?;
    let options = list.options();
    if !options.has_extension(&extension) {
        return Ok(false);
    }
    let rules =
        Rules::read(options.get_extension(&extension).as_message().context("field rules are a message")?)?;
    let items = rules.typed.and_then(|rules| match rules.get_field_by_name("items")?.into_owned() {
        Value::Message(items) => Some(items),
        _ => None,
    });
    items.map_or(Ok(false), |items| Ok(Rules::read(&items)?.ignore_always))
}

/// `buf.validate.FieldRules`, read.
#[derive(Default)]
struct Rules {
    required: bool,
    ignore_zero: bool,
    ignore_always: bool,
    typed: Option<DynamicMessage>,
}

impl Rules {
    fn read(message: &DynamicMessage) -> anyhow::Result<Self> {
        let mut rules = Self::default();
        for (field, value) in message.fields() {
            match (field.name(), value) {
                ("required", Value::Bool(required)) => rules.required = *required,
                ("ignore", Value::EnumNumber(ignore)) => {
                    let ignores = message.descriptor().parent_pool().get_enum_by_name("buf.validate.Ignore");
                    let name = ignores
                        .and_then(|ignores| ignores.get_value(*ignore))
                        .map(|value| value.name().to_owned());
                    match name.as_deref() {
                        Some("IGNORE_IF_ZERO_VALUE") => rules.ignore_zero = true,
                        Some("IGNORE_ALWAYS") => rules.ignore_always = true,
                        other => bail!("ignore {other:?} is not supported"),
                    }
                }
                (
                    "string" | "int32" | "int64" | "uint32" | "uint64" | "double" | "enum" | "duration"
                    | "repeated" | "map",
                    Value::Message(typed),
                ) => {
                    rules.typed = Some(typed.clone());
                }
                (other, _) => bail!("rule {other} is not supported"),
            }
        }
        Ok(rules)
    }
}

pub(crate) fn is_ours(message: &MessageDescriptor) -> bool {
    message.package_name().starts_with("chatfn.")
}

/// `chatfn.ingest.v1` is the module `crate::ingest::v1`.
fn package_module(package: &str) -> String {
    format!("crate::{}", package.trim_start_matches("chatfn.").replace('.', "::"))
}

pub(crate) fn rust_path(message: &MessageDescriptor) -> String {
    match message.parent_message() {
        None => format!("{}::{}", package_module(message.package_name()), camel(message.name())),
        Some(parent) => format!("{}::{}", module_of(&parent), camel(message.name())),
    }
}

/// The module in which prost puts a message's oneofs and nested messages.
pub(crate) fn module_of(message: &MessageDescriptor) -> String {
    match message.parent_message() {
        None => format!("{}::{}", package_module(message.package_name()), snake(message.name())),
        Some(parent) => format!("{}::{}", module_of(&parent), snake(message.name())),
    }
}

pub(crate) fn camel(name: &str) -> String {
    name.split('_')
        .map(|word| {
            word.chars().take(1).flat_map(char::to_uppercase).chain(word.chars().skip(1)).collect::<String>()
        })
        .collect()
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for (index, letter) in name.chars().enumerate() {
        if letter.is_uppercase() && index > 0 {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
    }
    out
}
