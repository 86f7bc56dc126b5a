/** Declares completion: the command that prints the script, and the hidden command that the script calls. */
import { Argument, type Command } from 'commander';
import { examples } from './options.ts';

export function addCompletionCommands(program: Command): void {
  examples(
    program
      .command('completion')
      .description('print the completion script for a shell')
      .addArgument(new Argument('<shell>').choices(['bash', 'zsh', 'fish'])),
    'source <(lxstow completion bash)',
    'lxstow completion fish | source',
  ).action(async (shell) => (await import('../commands/completion.ts')).completionCommand(shell));
  program
    .command('__complete', { hidden: true })
    .argument('[words...]')
    .action(async (words: string[]) => {
      const found = await (await import('../commands/completion.ts')).complete(program, words);
      process.stdout.write(found.map((word) => `${word}\n`).join(''));
    });
}
