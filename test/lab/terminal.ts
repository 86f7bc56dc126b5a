/** A command on a terminal of 100 by 24, which script(1) of util-linux makes. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';

/** For tests that need one. */
export const onTerminal = { skip: !existsSync('/usr/bin/script') && 'there is no script(1)' };

interface Terminal {
  child: ChildProcess;
  /** All that was shown. */
  seen: () => string;
  /** The exit status. */
  ended: Promise<number | null>;
}

export function openTerminal(words: string[], env: NodeJS.ProcessEnv): Terminal {
  const command = `stty cols 100 rows 24; exec ${words.map((word) => `'${word}'`).join(' ')}`;
  const child = spawn('script', ['-qec', command, '/dev/null'], { env, stdio: ['pipe', 'pipe', 'inherit'] });
  let text = '';
  child.stdout?.on('data', (bytes) => {
    text += bytes;
  });
  return { child, seen: () => text, ended: new Promise((resolve) => child.once('close', resolve)) };
}
