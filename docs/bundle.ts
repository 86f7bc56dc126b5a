/** The schemas of schemas/*.json, gathered into one document as it refers to them. */
import { readdir, readFile } from 'node:fs/promises';

export type Json = { [key: string]: unknown };

interface Bundle {
  files: Record<string, Json>;
  /** What was referred to so far, for `components.schemas`. */
  schemas: Record<string, unknown>;
  /** The schema as a reference into the document; what it refers to comes along. */
  schema(ref: string): { $ref: string };
}

export async function openBundle(): Promise<Bundle> {
  const folder = new URL('../schemas/', import.meta.url);
  const files: Record<string, Json> = {};
  for (const file of (await readdir(folder)).filter((name) => name.endsWith('.json')).sort())
    files[file] = JSON.parse(await readFile(new URL(file, folder), 'utf8'));
  const schemas: Record<string, unknown> = {};

  function schema(ref: string, within = ''): { $ref: string } {
    const [file = '', pointer = ''] = ref.startsWith('#') ? [within, ref.slice(1)] : ref.split('#');
    const [, definition, rest = ''] = /^\/\$defs\/([^/]+)(.*)$/.exec(pointer) ?? [undefined, undefined, pointer];
    const bare = file.replace(/\.json$/, '');
    const name = definition ? `${bare}.${definition}` : bare;
    const root = files[file];
    if (!root) throw new Error(`no schema ${ref}`);
    if (!(name in schemas)) {
      schemas[name] = {};
      schemas[name] = inlined(definition ? (root.$defs as Json)[definition] : root, file);
    }
    return { $ref: `#/components/schemas/${name}${rest}` };
  }

  function inlined(value: unknown, file: string): unknown {
    if (Array.isArray(value)) return value.map((each) => inlined(each, file));
    if (typeof value !== 'object' || value === null) return value;
    const entries = Object.entries(value as Json).filter(([key]) => !['$schema', '$id', '$defs'].includes(key));
    return Object.fromEntries(
      entries.map(([key, each]) => [key, key === '$ref' ? schema(each as string, file).$ref : inlined(each, file)]),
    );
  }

  return { files, schemas, schema };
}
