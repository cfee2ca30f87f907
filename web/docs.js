"use strict";

function element(tag, text, ...children) {
  const made = document.createElement(tag);
  made.append(text, ...children);
  return made;
}

const noun = { integer: "whole number", boolean: "true or false", array: "list" };

function rangeOf(schema) {
  const low = schema.minimum ?? schema.exclusiveMinimum;
  if (low === undefined && schema.maximum === undefined) return "";
  const start = schema.exclusiveMinimum === undefined ? `${low}` : `above ${low}`;
  return ` ${start} to ${schema.maximum}`;
}

/// A schema in words: "whole number 1 to 128", "list of text, at most 64".
function words(schema) {
  if (schema.anyOf) return schema.anyOf.map(words).join(", or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(", ");
  const type = [schema.type ?? "anything"].flat().filter((name) => name !== "null").join(" or ");
  let out = (noun[type] ?? (type === "string" ? "text" : type)) + rangeOf(schema);
  if (schema.items && Object.keys(schema.items).length > 0) out += ` of ${words(schema.items)}`;
  const most = schema.maxItems ?? schema.maxProperties;
  if (most !== undefined) out += `, at most ${most}`;
  return out || "null";
}

function rowsOf(schema, prefix) {
  const rows = [];
  for (const [name, member] of Object.entries(schema.properties)) {
    const required = (schema.required ?? []).includes(name) ? " (required)" : "";
    rows.push(element("tr", "", element("td", prefix + name),
      element("td", words(member) + required), element("td", member.description ?? "")));
    if (member.properties) rows.push(...rowsOf(member, `${prefix}${name}.`));
  }
  return rows;
}

function show(api) {
  const main = document.getElementById("endpoints");
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      main.append(element("h2", "", element("b", method.toUpperCase()), ` ${path}`));
      main.append(element("p", `${operation.summary}.`));
      const body = operation.requestBody?.content["application/json"].schema;
      for (const { $ref } of body?.anyOf ?? (body ? [body] : [])) {
        const name = $ref.split("/").pop();
        main.append(element("h3", name));
        main.append(element("table", "", ...rowsOf(api.components.schemas[name], "")));
      }
    }
  }
}

fetch("openapi.json").then((answer) => answer.json()).then(show, (problem) => {
  document.getElementById("endpoints").textContent = `openapi.json could not be read: ${problem}`;
});
