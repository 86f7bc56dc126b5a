/** Results on standard output, in the formats that `lxc` has. */
import { styleText } from 'node:util';
import { stringify } from 'yaml';
import { table } from './table.ts';

export const formats = ['table', 'json', 'yaml', 'csv'] as const;
export type Format = (typeof formats)[number];

export interface Result {
  heading: string[];
  rows: string[][];
  /** What JSON and YAML show: all of it. */
  raw: unknown;
  /** What a table says that has no rows. */
  empty: string;
}

export function print(format: Format, { heading, rows, raw, empty }: Result): void {
  process.stdout.write(inFormat());

  function inFormat(): string {
    switch (format) {
      case 'json':
        return `${JSON.stringify(raw, null, 2)}\n`;
      case 'yaml':
        return stringify(raw);
      case 'csv':
        return rows.map((row) => `${row.map(csv).join(',')}\n`).join('');
      case 'table':
        return rows.length === 0 ? `${empty}\n` : table(heading, rows, coloured);
    }
  }
}

/** As RFC 4180 has it; no heading, as `lxc`. */
function csv(cell: string): string {
  return /[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
}

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

/** The cell's colour, where standard output is a terminal that wants colours; NO_COLOR turns them off. */
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
