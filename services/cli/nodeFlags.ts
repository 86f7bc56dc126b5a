/**
 * Some flags are read only when Node begins: the process becomes one that has them, with the same id, input and output. Where that cannot be done
 * (Windows), it goes on without.
 */
export function withNodeFlags(...flags: string[]): void {
  if (flags.every((flag) => process.execArgv.includes(flag))) return;
  const { execPath, execArgv, argv, env } = process;
  process.execve?.(execPath, [execPath, ...flags, ...execArgv, ...argv.slice(1)], env);
}
