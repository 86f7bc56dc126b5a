/** Writes schemas/types.ts from the schemas: `npm run generate`. With --check it only says whether the file is stale. */
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { compile, type JSONSchema } from 'json-schema-to-typescript';

const folder = new URL('./', import.meta.url);
const target = new URL('types.ts', folder);

const files = (await readdir(folder)).filter((file) => file.endsWith('.json')).sort();
const everything = {
  title: 'Everything',
  type: 'object',
  properties: {} as Record<string, JSONSchema>,
} satisfies JSONSchema;
for (const file of files) everything.properties[file] = { $ref: file };

const text = await compile(everything, 'Everything', {
  cwd: folder.pathname,
  bannerComment: '// Made from schemas/*.json by `npm run generate`. Change those, not this.',
  additionalProperties: false,
  unknownAny: true,
  format: false,
  ignoreMinAndMaxItems: true,
  enableConstEnums: false,
});
const present = await readFile(target, 'utf8').catch(() => '');
if (process.argv.includes('--check')) {
  if (present !== text) {
    console.error('schemas/types.ts is stale: run `npm run generate`');
    process.exit(1);
  }
} else if (present !== text) {
  await writeFile(target, text);
}
