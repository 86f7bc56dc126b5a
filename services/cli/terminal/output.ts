/** Prints results on standard output, in the formats of `lxc`, and remarks on standard error. */
import { styleText } from 'node:util';
import { Document, stringify, visit } from 'yaml';
import { escaped, printable, printableLines, table } from './table.ts';

export const formats = ['table', 'json', 'yaml', 'csv'] as const;
export type Format = (typeof formats)[number];

interface Result {
  heading: string[];
  rows: string[][];
  /** What JSON and YAML show. */
  raw: unknown;
  /** Printed instead of a table without rows. */
  empty: string;
}

export function print(format: Format, { heading, rows, raw, empty }: Result): void {
  process.stdout.write(inFormat());

  function inFormat(): string {
    switch (format) {
      case 'json':
        return `${json(raw, 2)}\n`;
      case 'yaml':
        return yaml(raw);
      case 'csv':
        return rows.map((row) => `${row.map(csv).join(',')}\n`).join('');
      case 'table':
        return rows.length === 0 ? `${empty}\n` : table(...withLocalTimes(heading, rows), coloured);
    }
  }
}

/** A remark in addition to the result, such as a warning. */
export function say(text: string): void {
  process.stderr.write(`lxstow: ${printable(text)}\n`);
}

const utc = ' (UTC)';

/** Adds a column of local times next to the times in UTC, unless they are the same. */
function withLocalTimes(heading: string[], rows: string[][]): [heading: string[], rows: string[][]] {
  const column = heading.findIndex((each) => each.endsWith(utc));
  const here = rows.map((row) => localTime(row[column] ?? ''));
  if (column < 0 || here.every((text) => text === '')) return [heading, rows];
  return [heading.toSpliced(column + 1, 0, 'LOCAL'), rows.map((row, i) => row.toSpliced(column + 1, 0, here[i] ?? ''))];
}

/** Converts a time in UTC to local time, `2026-11-23 14:45:47`; empty where they are the same. */
function localTime(text: string): string {
  const moment = new Date(`${text.slice(0, 19).replace(' ', 'T')}Z`);
  if (Number.isNaN(moment.getTime()) || moment.getTimezoneOffset() === 0) return '';
  return time(new Date(moment.getTime() - moment.getTimezoneOffset() * 60_000).toISOString());
}

/** CSV as in RFC 4180, with the escapes of tables, and without a heading, as in `lxc`. */
function csv(text: string): string {
  const cell = printable(text);
  return /[",]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
}

/** JSON without characters that control a terminal. JSON.stringify escapes only those below U+0020. */
export function json(value: unknown, indent?: number): string {
  return escaped(JSON.stringify(value, null, indent), (code) =>
    String.fromCodePoint(code)
      .split('')
      .map((unit) => `\\u${hex(unit.charCodeAt(0), 4)}`)
      .join(''),
  );
}

/** The same in YAML, where escapes exist only between double quotes. */
function yaml(value: unknown): string {
  const acts = (text: string) => escaped(text, () => '') !== text;
  const document = new Document(value);
  visit(document, {
    Scalar(_key, node) {
      if (typeof node.value === 'string' && acts(node.value)) node.type = 'QUOTE_DOUBLE';
    },
  });
  return escaped(document.toString(), (code) => (code > 0xffff ? `\\U${hex(code, 8)}` : `\\u${hex(code, 4)}`));
}

const hex = (code: number, digits: number) => code.toString(16).padStart(digits, '0');

const colours: Record<string, 'green' | 'red' | 'yellow'> = {
  Success: 'green',
  Failure: 'red',
  Cancelled: 'yellow',
  Cancelling: 'yellow',
  ok: 'green',
  warning: 'yellow',
  problem: 'red',
  never: 'red',
  failing: 'red',
  overdue: 'red',
};

/** Colours the cell if standard output is a terminal with colours; NO_COLOR turns them off. */
function coloured(cell: string): string {
  const colour = colours[cell.trimEnd()];
  return colour ? styleText(colour, cell, { stream: process.stdout }) : cell;
}

const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** `73.59MiB`, as LXD writes sizes. */
export function size(bytes: number): string {
  let [value, unit] = [bytes, 0];
  while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${unit === 0 ? value : value.toFixed(2)}${units[unit]}`;
}

/** `2026-11-23 13:45:47`, in UTC. */
export function time(text: string): string {
  return text.slice(0, 19).replace('T', ' ');
}

/** LXD's value for a time that is not set. */
const never = '0001-01-01T';
const isoTime = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}/;

/** An object as YAML for people: readable sizes, and local times next to those in UTC. */
export function people(found: object): string {
  return printableLines(stringify(found, (key, value) => readable(String(key), value)));
}

function readable(key: string, value: unknown): unknown {
  if (typeof value === 'number' && /(^|_)(size|bytes)(_|$)/.test(key)) return `${size(value)} (${value} bytes)`;
  if (typeof value !== 'string' || !isoTime.test(value)) return value;
  if (value.startsWith(never)) return 'never';
  const here = localTime(value.replace('T', ' '));
  return here === '' ? value : `${value} (${here} here)`;
}
