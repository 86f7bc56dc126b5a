import { spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';

/** Where the lab says what it is doing, a line at a time. */
export type Log = (line: string) => void;

export interface RunOptions {
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  /** Given to the command on its standard input, which is empty without it. */
  input?: string | Uint8Array;
  signal?: AbortSignal | undefined;
}

interface Ended {
  status: number;
  stdout: Buffer;
  stderr: string;
}

/** What the command printed. Throws with its standard error when it fails or cannot be started. */
export async function run(command: string, args: string[], options: RunOptions = {}): Promise<string> {
  const { status, stdout, stderr } = await attempt(command, args, options);
  if (status === 0) return stdout.toString();
  throw new Error(`${command} ${args.join(' ')}: ${stderr.trim() || `exit status ${status}`}`);
}

/** Runs the command to its end, whatever that is. Throws only when it cannot be started or is aborted. */
export async function attempt(command: string, args: string[], options: RunOptions = {}): Promise<Ended> {
  const { input, ...rest } = options;
  const child = spawn(command, args, { ...rest, stdio: [input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'] });
  const status = new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => (signal ? reject(new Error(`${command}: ${signal}`)) : resolve(code ?? 0)));
  });
  child.stdin?.on('error', () => child.stdin?.destroy()); // it may end without reading everything: its status tells
  child.stdin?.end(input);
  const [stdout, stderr, code] = await Promise.all([collect(child.stdout), collect(child.stderr), status]);
  return { status: code, stdout, stderr: stderr.toString() };
}

async function collect(stream: Readable | null): Promise<Buffer> {
  return stream ? buffer(stream) : Buffer.alloc(0);
}

/** The message of an error and of what caused it. */
export function errorText(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause ? `${error.message}: ${errorText(error.cause)}` : error.message;
}
