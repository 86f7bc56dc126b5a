/** Writes the tables in docs/configuration.md from schemas/config.json: `node docs/generate.ts`. With --check it only says whether they are stale. */
import { readFile, writeFile } from 'node:fs/promises';
import schema from '../schemas/config.json' with { type: 'json' };
import names from '../schemas/names.json' with { type: 'json' };
import { variableOf } from '../services/contract/config.ts';

interface Node {
  $ref?: string;
  type?: string;
  enum?: string[];
  default?: unknown;
  description?: string;
  minimum?: number;
  maximum?: number;
  properties?: Record<string, Node>;
  'x-secret'?: boolean;
}

const target = new URL('configuration.md', import.meta.url);
const [beginning, end] = ['<!-- made by docs/generate.ts: begin -->', '<!-- made by docs/generate.ts: end -->'];

const text = await readFile(target, 'utf8');
const [before, behind] = [text.split(beginning)[0], text.split(end)[1]];
if (before === undefined || behind === undefined) throw new Error('docs/configuration.md has lost its marks');
const fresh = `${before}${beginning}\n\n${tables().join('\n\n')}\n\n${end}${behind}`;
if (process.argv.includes('--check')) {
  if (fresh !== text) {
    console.error('docs/configuration.md is stale: run `node docs/generate.ts`');
    process.exitCode = 1;
  }
} else if (fresh !== text) await writeFile(target, fresh);

function tables(): string[] {
  const groups = Object.entries(schema.properties as Record<string, Node>);
  return groups.flatMap(([group, node]) => {
    const rows = Object.entries(node.properties ?? {}).map(([key, leaf]) => row(`${group}.${key}`, leaf));
    if (rows.length > 0) return [`### ${group}`, table(rows)];
    const each = Object.entries(schema.$defs.remote.properties as Record<string, Node>);
    return [
      `### ${group}`,
      `${node.description} In the environment: \`${variableOf([group])}\`, as JSON. Default: \`${JSON.stringify(node.default)}\`, the unix socket of the LXD or Incus here. ${schema.$defs.remote.description}`,
      table(each.map(([key, leaf]) => [`\`${group}.<name>.${key}\``, '', '', what(leaf)])),
    ];
  });
}

function row(path: string, leaf: Node): string[] {
  const { default: usual } = leaf;
  const shown = usual === undefined || usual === '' ? '' : `\`${Array.isArray(usual) ? usual.join(',') : usual}\``;
  return [`\`${path}\``, `\`${variableOf(path.split('.'))}\``, shown, what(leaf)];
}

function what(leaf: Node): string {
  const node = leaf.$ref?.startsWith('names.json#/$defs/')
    ? { ...(names.$defs as Record<string, Node>)[leaf.$ref.slice('names.json#/$defs/'.length)], ...leaf }
    : leaf;
  const { minimum, maximum } = node;
  const range =
    maximum !== undefined ? `${minimum} to ${maximum}.` : minimum !== undefined ? `${minimum} or more.` : undefined;
  const words = [
    node.description,
    node.enum && `One of ${node.enum.map((value) => `\`${value}\``).join(', ')}.`,
    node.type === 'boolean' && 'true or false.',
    node.type === 'array' && 'In the environment: separated by commas.',
    range,
    node['x-secret'] && '**Secret.**',
  ];
  return words.filter(Boolean).join(' ');
}

function table(rows: string[][]): string {
  const all = [['Key', 'Variable', 'Default', 'What it is'], ['---', '---', '---', '---'], ...rows];
  const used = (all[0] ?? []).map((_, column) => rows.some((row) => row[column] !== ''));
  return all
    .map(
      (row) =>
        `| ${row
          .filter((_, column) => used[column])
          .map((cell) => cell.replaceAll('|', '\\|'))
          .join(' | ')} |`,
    )
    .join('\n');
}
