// Which button of the shown HTML was clicked: its data attributes are the event.
element.addEventListener('click', event => {
  const chosen = event.target.closest('button[data-row], button[data-word]');
  if (!chosen) return;
  for (const other of element.querySelectorAll('button[aria-current]')) other.removeAttribute('aria-current');
  chosen.setAttribute('aria-current', 'true');
  trigger('click', {...chosen.dataset});
});
