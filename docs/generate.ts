/**
 * Writes the tables in docs/configuration.md from schemas/config.json, and the one in docs/s3.md from test/contract/servers.ts: `node docs/generate.ts`.
 * With --check it only says whether they are stale.
 */
import { readFile, writeFile } from 'node:fs/promises';
import schema from '../schemas/config.json' with { type: 'json' };
import names from '../schemas/names.json' with { type: 'json' };
import { variableOf } from '../services/contract/config.ts';
import { serversTable } from '../test/contract/servers.ts';

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

const [beginning, end] = ['<!-- made by docs/generate.ts: begin -->', '<!-- made by docs/generate.ts: end -->'];

await refresh('configuration.md', tables().join('\n\n'));
await refresh('s3.md', serversTable());

async function refresh(page: string, made: string): Promise<void> {
  const target = new URL(page, import.meta.url);
  const text = await readFile(target, 'utf8');
  const [before, behind] = [text.split(beginning)[0], text.split(end)[1]];
  if (before === undefined || behind === undefined) throw new Error(`docs/${page} has lost its marks`);
  const fresh = `${before}${beginning}\n\n${made}\n\n${end}${behind}`;
  if (fresh === text) return;
  if (!process.argv.includes('--check')) return writeFile(target, fresh);
  console.error(`docs/${page} is stale: run \`node docs/generate.ts\``);
  process.exitCode = 1;
}

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
  const shown =
    usual === undefined || String(usual) === '' ? '' : `\`${Array.isArray(usual) ? usual.join(',') : usual}\``;
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
