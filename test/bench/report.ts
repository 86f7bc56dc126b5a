/** What was measured: as JSON, and as tables for people. */
import { readFile } from 'node:fs/promises';
import { cpus, totalmem } from 'node:os';
import type { Cost } from './measure.ts';

export interface Line extends Omit<Cost, 'wallS'> {
  name: string;
  /** Where time was measured. */
  wallS?: number;
  /** Times the floor of the same run. */
  toFloor?: number;
  storedBytes?: number;
}

export interface Table {
  title: string;
  /** Bytes that went through, for what counts by the gigabyte. */
  bytes: number;
  /** Of how many runs each figure is the median. */
  rounds: number;
  lines: Line[];
  /** What must hold, and whether it did. */
  bars: { text: string; value: number; holds: boolean }[];
}

export interface Report {
  machine: string;
  tables: Table[];
}

export function machine(parts: Record<string, string>): string {
  const [cpu] = cpus();
  const versions = Object.entries(parts).map(([name, version]) => `${name} ${version}`);
  return [
    `${cpus().length} × ${cpu?.model.trim()}`,
    `${Math.round(totalmem() / 2 ** 30)} GiB`,
    `Node ${process.version}`,
    ...versions,
  ].join(', ');
}

export function markdown({ machine: where, tables }: Report, before?: Report): string {
  return [`Machine: ${where}.`, ...tables.map((table) => tableText(table, before))].join('\n\n');
}

function tableText({ title, bytes, rounds, lines, bars }: Table, before: Report | undefined): string {
  const earlier = before?.tables.find((table) => table.title === title);
  const gigabytes = bytes / 1e9;
  const rows = lines.map((line) => {
    const { name, wallS, cpuS, peakMiB, storedBytes, toFloor } = line;
    const then = earlier?.lines.find((each) => each.name === name);
    return [
      name.replaceAll('|', '\\|'),
      wallS === undefined ? '' : wallS.toFixed(wallS < 0.1 ? 4 : 2),
      toFloor === undefined ? '' : toFloor.toFixed(2),
      cpuS === undefined || bytes === 0 ? '' : (cpuS / gigabytes).toFixed(2),
      peakMiB === undefined ? '' : peakMiB.toFixed(0),
      storedBytes === undefined ? '' : (storedBytes / 1e6).toFixed(0),
      ...(before ? [since(wallS, then?.wallS)] : []),
    ];
  });
  const head = ['', 'wall s', '× floor', 'CPU s/GB', 'peak MiB', 'stored MB', ...(before ? ['wall since'] : [])];
  const table = [head, head.map((_, column) => (column === 0 ? ':--' : '--:')), ...rows].map(
    (row) => `| ${row.join(' | ')} |`,
  );
  const held = bars.map(
    ({ text, value, holds }) => `- ${holds ? 'held' : '**not held**'}: ${text} (${value.toFixed(2)})`,
  );
  const size = bytes > 0 ? `, ${(bytes / 1e6).toFixed(0)} MB` : '';
  return [
    `### ${title}${size}`,
    rounds === 1 ? 'One run.' : `Medians of ${rounds}.`,
    table.join('\n'),
    ...(held.length > 0 ? [held.join('\n')] : []),
  ].join('\n\n');
}

function since(now: number | undefined, then: number | undefined): string {
  if (now === undefined) return '';
  return then === undefined ? 'new' : `${(((now - then) / then) * 100).toFixed(0)} %`;
}

export async function readReport(path: string): Promise<Report> {
  return JSON.parse(await readFile(path, 'utf8')) as Report;
}
